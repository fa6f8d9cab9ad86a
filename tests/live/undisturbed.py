"""Experiments on a machine that takes a page for itself now and then: DAMON, for one, pages out what looks cold."""

from __future__ import annotations

import json

TRIES = 3


def undisturbed(run, holds):
    """What `run` gives when that holds, or at the last try; what is wrong by itself is so every time."""
    for _ in range(TRIES - 1):
        found = run()
        if holds(found):
            return found
    return run()


def all_claims_hold(run):
    """Whether a run of an experiment has no claim that does not hold."""
    return all(claim.holds for claim in run.claims)


def all_claims_of_a_command_hold(done):
    """The same of a `lab run --json` that has ended."""
    return all(claim["holds"] for claim in json.loads(done.stdout)["claims"])
