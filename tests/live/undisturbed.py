"""Experiments on a machine that takes a page for itself now and then: DAMON, for one, pages out what looks cold."""

from __future__ import annotations

TRIES = 3


def undisturbed(run, holds):
    """What `run` gives when that holds, or at the last try; what is wrong by itself is so every time."""
    for _ in range(TRIES - 1):
        found = run()
        if holds(found):
            return found
    return run()


def all_claims_hold(run):
    """Whether a run of an experiment, or what its JSON says, has no claim that does not hold."""
    claims = run["claims"] if isinstance(run, dict) else run.claims
    return all(claim["holds"] if isinstance(claim, dict) else claim.holds for claim in claims)
