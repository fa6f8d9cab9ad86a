"""What a refusal means, and what the texts of procfs say of our rights and surroundings; no kernel is asked here."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from dontneed.abi.capabilities import NAMES, bit_of, names_in
from dontneed.errors import UsageError
from dontneed.kernel import features as features_module
from dontneed.kernel.capabilities import Privileges, parse_privileges
from dontneed.kernel.environment import chosen_word, own_cgroup, parse_limit, parse_swaps
from dontneed.kernel.features import Feature, feature, features, judge
from dontneed.kernel.interfaces import Interface, all_interfaces, interface_named
from dontneed.kernel.probes import Hidden, Lacking, SwitchedOff, Untried

EVERYTHING = (1 << len(NAMES)) - 1
ROOT = Privileges(uid=0, effective=EVERYTHING, bounding=EVERYTHING)
USER = Privileges(uid=1000, effective=0, bounding=EVERYTHING)
SANDBOXED_USER = USER.replace(no_new_privileges=True)
CONTAINER_ROOT = Privileges(uid=0, effective=bit_of("CAP_CHOWN"), bounding=bit_of("CAP_CHOWN"), seccomp_filter=True)
DROPPED_ROOT = Privileges(uid=0, effective=0, bounding=EVERYTHING)
NAMESPACE_ROOT = ROOT.replace(user_namespace=True)
FILTERED_ROOT = ROOT.replace(seccomp_filter=True)


def _unused() -> str:
    raise AssertionError


OPEN = Interface("call", "look", "5.1", "a thing", _unused, needs="CONFIG_THING", instead="the old way")
GUARDED = OPEN.replace(capability="CAP_SYS_ADMIN")


def _refused(number: int, name: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), name)


# What a refusal means


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTTY, errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP])
def test_an_errno_of_ignorance_means_absent_whoever_asks(number):
    """ENOSYS, ENOTTY, ENOENT, EINVAL and EOPNOTSUPP are the kernel's ways of not knowing something."""
    for privileges in (ROOT, USER):
        verdict = judge(GUARDED, _refused(number, "call"), privileges)
        assert verdict.state == "absent"
        assert errno.errorcode[number] in verdict.detail
        assert verdict.remedy == "Linux 5.1 or newer, with CONFIG_THING; until then the old way"


def test_enosys_under_a_seccomp_filter_is_absent_and_says_that_the_filter_may_speak():
    """A container runtime answers ENOSYS for calls it does not know; the kernel may have them."""
    verdict = judge(OPEN, _refused(errno.ENOSYS, "call"), FILTERED_ROOT)
    assert verdict.state == "absent"
    assert "seccomp filter" in verdict.detail
    assert "seccomp profile" in verdict.remedy
    assert "seccomp" not in judge(OPEN, _refused(errno.ENOSYS, "call"), ROOT).detail


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_a_refusal_without_the_capability_is_unprivileged_and_names_it(number):
    """Who lacks the capability can get it."""
    verdict = judge(GUARDED, _refused(number, "call"), USER)
    assert verdict.state == "unprivileged"
    assert "CAP_SYS_ADMIN" in verdict.detail
    assert errno.errorcode[number] in verdict.detail
    assert "sudo" in verdict.remedy


def test_a_refusal_in_spite_of_the_capability_is_forbidden():
    """Root that is refused is refused by something that sudo does not move."""
    verdict = judge(GUARDED, _refused(errno.EPERM, "call"), ROOT)
    assert verdict.state == "forbidden"
    assert "security module" in verdict.remedy


def test_a_refusal_where_no_capability_matters_is_forbidden():
    """Nobody needs a right to advise his own memory, so no right would help."""
    assert judge(OPEN, _refused(errno.EPERM, "call"), USER).state == "forbidden"


def test_a_capability_in_a_user_namespace_does_not_count():
    """The root of a user namespace holds CAP_SYS_ADMIN and may not see frames: forbidden, by the namespace."""
    verdict = judge(GUARDED, Hidden("reads 0"), NAMESPACE_ROOT)
    assert verdict.state == "forbidden"
    assert "user namespace" in verdict.detail
    assert "user namespace" in verdict.remedy


def test_hidden_content_is_unprivileged_without_the_capability():
    """Frame number 0 says no as clearly as EPERM."""
    verdict = judge(GUARDED, Hidden("reads 0"), USER)
    assert (verdict.state, verdict.detail) == ("unprivileged", "reads 0; needs CAP_SYS_ADMIN")


def test_a_refused_call_under_a_seccomp_filter_is_forbidden_by_the_filter():
    """A filter sees calls."""
    verdict = judge(OPEN, _refused(errno.EPERM, "call"), FILTERED_ROOT)
    assert verdict.state == "forbidden"
    assert "seccomp profile" in verdict.remedy


def test_a_refused_path_under_a_seccomp_filter_is_not_blamed_on_the_filter():
    """A filter sees no paths: another path is opened all the time."""
    assert "security module" in judge(OPEN, _refused(errno.EACCES, "/proc/thing"), FILTERED_ROOT).remedy


def test_ones_own_files_are_refused_only_to_a_process_that_is_not_dumpable():
    """/proc/self of such a process belongs to root, and CAP_SYS_ADMIN alone does not open it."""
    admin = USER.replace(effective=bit_of("CAP_SYS_ADMIN"))
    verdict = judge(GUARDED, _refused(errno.EACCES, "/proc/self/pagemap"), admin)
    assert verdict.state == "unprivileged"
    assert "not dumpable" in verdict.detail
    assert "CAP_DAC_READ_SEARCH" in verdict.detail


@pytest.mark.parametrize(
    ("privileges", "word"),
    [
        (USER, "sudo"),
        (SANDBOXED_USER, "no_new_privs"),
        (CONTAINER_ROOT, "--cap-add=SYS_ADMIN"),
        (DROPPED_ROOT, "gave CAP_SYS_ADMIN up"),
        (USER.replace(user_namespace=True), "user namespace"),
    ],
)
def test_the_remedy_fits_who_took_the_capability_away(privileges, word):
    """It is sudo for a user, an option for a container, another shell for a root that dropped it."""
    verdict = judge(GUARDED, _refused(errno.EPERM, "call"), privileges)
    assert verdict.state == "unprivileged"
    assert word in verdict.remedy


def test_what_could_not_be_tried_is_told_by_the_capability():
    """Alone in a container there is no other process to try on."""
    assert judge(GUARDED, Untried("nobody here"), ROOT).state == "present"
    assert judge(OPEN, Untried("nobody here"), USER).state == "present"
    assert judge(GUARDED, Untried("nobody here"), USER).state == "unprivileged"
    assert judge(GUARDED, Untried("nobody here"), NAMESPACE_ROOT).state == "forbidden"


def test_what_somebody_switched_off_is_forbidden_with_a_remedy_of_its_own():
    """A mask or a setting is not moved by rights."""
    verdict = judge(OPEN, SwitchedOff("never", "switch it on"), ROOT)
    assert (verdict.state, verdict.detail, verdict.remedy) == ("forbidden", "never", "switch it on")


def test_what_answers_without_the_content_is_absent():
    """A status file without an RssAnon line comes from an older kernel."""
    assert judge(OPEN, Lacking("no such line"), USER).state == "absent"


def test_an_errno_that_nobody_expected_is_told_by_its_name():
    """It is neither absence nor a question of rights, and must not be taken for either."""
    verdict = judge(OPEN, _refused(errno.ENOMEM, "call"), ROOT)
    assert verdict.state == "forbidden"
    assert verdict.detail == "ENOMEM from call"


def test_every_refusal_has_a_remedy():
    """Doctor never says no without saying what to try."""
    refusals = [Hidden("h"), Lacking("l"), SwitchedOff("s", "r")]
    refusals += [_refused(number, "call") for number in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOMEM)]
    for privileges in (ROOT, USER, SANDBOXED_USER, CONTAINER_ROOT, DROPPED_ROOT, NAMESPACE_ROOT, FILTERED_ROOT):
        for refusal in refusals:
            for interface in (OPEN, GUARDED):
                assert judge(interface, refusal, privileges).remedy


# The table


def test_every_interface_has_a_name_of_its_own_and_says_what_it_is_for():
    """The table is read by people, and looked up by name."""
    interfaces = all_interfaces()
    assert len({interface.name for interface in interfaces}) == len(interfaces)
    for interface in interfaces:
        assert interface.used_for
        assert interface.step in ("look", "prove", "release", "environment")
        assert [int(part) for part in interface.since.split(".")] > [1]
        assert not interface.capability or interface.capability in NAMES
        assert interface_named(interface.name).name == interface.name


def test_the_advices_that_break_frames_are_never_tried():
    """HWPOISON and SOFT_OFFLINE take memory out of the machine."""
    names = {interface.name for interface in all_interfaces()}
    assert "madvise(DONTNEED)" in names
    assert not names & {"madvise(HWPOISON)", "madvise(SOFT_OFFLINE)"}


def test_an_advice_that_a_build_option_brings_says_so():
    """A new kernel without KSM lacks MERGEABLE too."""
    assert interface_named("madvise(MERGEABLE)").needs == "CONFIG_KSM"
    assert interface_named("madvise(DONTNEED)").needs == ""


# Memory of what was tried


@pytest.fixture
def one_interface(monkeypatch):
    """A table of one interface, whose trials are counted."""
    tried = []
    row = OPEN.replace(trial=lambda: tried.append("once more") or "worked")
    monkeypatch.setattr(features_module, "all_interfaces", lambda: (row,))
    monkeypatch.setattr(features_module, "interface_named", lambda name: row if name == row.name else None)
    monkeypatch.setattr(features_module, "_found", {})
    return tried


def test_an_interface_is_tried_once_and_again_when_asked_to(one_interface):
    """features() costs nothing the second time; refresh=True forgets."""
    assert features() == features() == (feature("call"),)
    assert len(one_interface) == 1
    features(refresh=True)
    assert len(one_interface) == 2


@pytest.mark.usefixtures("one_interface")
def test_a_trial_that_works_makes_a_feature_that_is_present():
    """With what the trial saw, and nothing to remedy."""
    assert feature("call") == Feature("call", "present", "look", "5.1", "a thing", "worked", "")
    assert features_module.state_of("call") == "present"


@pytest.mark.usefixtures("one_interface")
def test_an_unknown_feature_is_a_usage_error_that_lists_the_known():
    """A typo is told from a missing interface."""
    with pytest.raises(UsageError, match="no feature 'cal'") as caught:
        feature("cal")
    assert "call" in caught.value.hint


def test_asking_for_features_loads_nothing_that_is_expensive():
    """Other modules ask state_of() on the way to a cold `dontneed look`."""
    expensive = "{'ctypes', 'numpy', 're', 'typing', 'enum', 'dataclasses', 'argparse', 'inspect'}"
    code = f"import sys, dontneed.kernel.features; print(sorted({expensive} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env=_path())
    assert done.stdout == "[]\n"


def _path() -> dict[str, str]:
    """Where this dontneed is, for an interpreter that is started without site."""
    import dontneed

    return {"PYTHONPATH": os.path.dirname(next(iter(dontneed.__path__)))}


# Texts of procfs


def test_capabilities_have_the_numbers_of_the_header():
    """A few that must never move: include/uapi/linux/capability.h."""
    numbers = {"CAP_CHOWN": 0, "CAP_DAC_READ_SEARCH": 2, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_SYS_NICE": 23}
    numbers |= {"CAP_SYSLOG": 34, "CAP_PERFMON": 38, "CAP_BPF": 39, "CAP_CHECKPOINT_RESTORE": 40}
    assert {name: NAMES.index(name) for name in numbers} == numbers


def test_a_mask_of_capabilities_is_read_as_names_even_beyond_the_table():
    """A newer kernel's bit keeps its number."""
    assert names_in(bit_of("CAP_CHOWN") | bit_of("CAP_SYS_ADMIN") | 1 << 63) == ("CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_63")
    assert names_in(0) == ()


def test_privileges_are_read_from_status():
    """As a container's root has them: some capabilities, a filter, no_new_privs."""
    status = (
        b"Name:\tpython3: x\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n"
        b"NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n"
    )
    privileges = parse_privileges(status, uid=0, user_namespace=False)
    assert privileges.effective == privileges.bounding == 0xA80425FB
    assert privileges.holds("CAP_CHOWN")
    assert not privileges.holds("CAP_SYS_ADMIN")
    assert privileges.seccomp_filter
    assert privileges.no_new_privileges
    assert not privileges.could_gain("CAP_CHOWN")


def test_an_old_status_file_means_no_restrictions_and_an_empty_one_no_rights():
    """Seccomp came with 3.8 and NoNewPrivs with 4.10; without /proc there is nothing to read."""
    old = parse_privileges(b"CapEff:\t1\nCapBnd:\tffffffffffffffff\n", uid=0, user_namespace=False)
    assert old == Privileges(uid=0, effective=1, bounding=(1 << 64) - 1)
    assert parse_privileges(b"", uid=7, user_namespace=True).effective == 0


def test_the_chosen_word_stands_in_brackets():
    """As in transparent_hugepage/enabled and security/lockdown."""
    assert chosen_word("always [madvise] never\n") == "madvise"
    assert chosen_word("none [integrity] confidentiality\n") == "integrity"
    assert chosen_word("511\n") is None
    assert chosen_word(None) is None


def test_swap_areas_are_added_up_in_bytes():
    """Names with spaces are escaped, so that columns hold."""
    text = (
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        "/dev/dm-1                               partition\t1024\t\t100\t\t-2\n"
        "/my\\040swap                             file\t\t2048\t\t0\t\t-3\n"
    )
    assert parse_swaps(text) == (3072 * 1024, 100 * 1024)
    assert parse_swaps("") == (0, 0)


@pytest.mark.parametrize(
    ("text", "limit_bytes"),
    [("max\n", None), ("9223372036854771712\n", None), ("536870912\n", 536870912), ("0\n", 0), (None, None)],
)
def test_a_memory_limit_is_a_number_of_bytes_or_none(text, limit_bytes):
    """v2 says 'max', v1 a number that nobody has."""
    assert parse_limit(text) == limit_bytes


HYBRID = "9:name=systemd:/\n4:memory,hugetlb:/pods/a:b\n0::/unified\n"


def test_a_process_is_found_in_the_memory_hierarchy_of_either_version():
    """A hybrid system has both, and a path may hold a colon."""
    assert own_cgroup(HYBRID, 1) == "/pods/a:b"
    assert own_cgroup(HYBRID, 2) == "/unified"
    assert own_cgroup("0::/\n", 1) is None
    assert own_cgroup("4:memory:/\n", 2) is None
