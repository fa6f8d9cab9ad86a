"""Acting inside another process with ptrace: stop it, look, run system calls and functions in it, let it go unharmed.

    with Stop(process) as stop:                     stop: every thread, or those given; resumes them come what may
        inject(stop, X86_64.GETPID)                 syscall: a system call, by a thread that can lend itself
        advise_inside(stop, spans, advice)          advise: madvise for many ranges
    with Stop(process, threads=[thread]) as stop:   quiet: which thread cannot be inside malloc
        call(stop, address, 0)                      call: a C function, from beginning to end

Three promises, and the modules that keep them:

- A thread goes on as if nothing had happened: every register as it was, interrupted system calls made again (restart).
- Our own death, at any instant, leaves nothing half done: before a thread is borrowed, its stack is prepared with a way
  home that it walks by itself (return_path, passage; its steps are pieces of the target's own code: gadgets).
- What cannot be done safely is refused before anything is changed, and the error says why (refusals, filters, lender).

One thing remains that we cannot help: if we die in the instant between a thread's stop and our first look at it, a call
that returns EINTR after any interruption (epoll_wait, say) does so, as after a SIGSTOP and SIGCONT.

What depends on the architecture is in registers and return_path, and its facts in abi.x86_64.
"""
