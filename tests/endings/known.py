"""Endings that once went wrong, or that are too slow or too rare to be left to chance."""

from __future__ import annotations

from tests.endings.programs import (
    TIMEOUT_S,
    After,
    Afterwards,
    Before,
    Cancel,
    Commit,
    Finish,
    Group,
    Later,
    Leave,
    Program,
    Raise,
    Redirect,
    Run,
    Sleep,
    Status,
)

SLOW = Run("is slow at COMMIT")

KNOWN = {
    # -- a conflict beside the handler's own commit: what is committed does not run again
    "a conflict in a sibling while commit() is under way": Program(
        (SLOW, Group(((Commit(),), (Sleep(), Raise("RetryableConflict always")))))
    ),
    "a conflict behind wait_for(commit())": Program(
        (SLOW, Commit("wait_for, swallowed"), Raise("RetryableConflict always"))
    ),
    "a lost connection behind wait_for(commit())": Program(
        (SLOW, Commit("wait_for, swallowed"), Raise("ConnectionLost always"))
    ),
    "commit() in a cancelled task, then a conflict": Program(
        (SLOW, Commit("cancelled"), Raise("RetryableConflict always"))
    ),
    "commit() itself is the conflict, and is not waited for": Program(
        (Run("conflicts at COMMIT"), Commit("wait_for"))
    ),
    "commit() itself is the conflict": Program((Run("conflicts at COMMIT"), Commit())),
    # -- an end without an answer while commit() is under way
    "commit() in a task, and no answer": Program((SLOW, Commit("task"), Later(answers=False))),
    "commit() in a task, and an answer that comes too late": Program((SLOW, Commit("task"), Later())),
    "commit() in a task, and a panic": Program((SLOW, Commit("task"), Raise("Panic"))),
    "commit() in a task that has not begun, and a panic": Program((Run(), Commit("task"), Raise("Panic"))),
    "commit() in a task that has begun, and a success": Program((SLOW, Commit("task"), Sleep(), Status(201))),
    "commit() in a task that has begun, and a 404": Program((SLOW, Commit("task"), Sleep(), Status(404))),
    "commit() in a cancelled task, and a 404": Program((SLOW, Status(404), Commit("cancelled"))),
    "commit() in a task, and a cancel of the own task": Program((Run(), Commit("task"), Cancel())),
    "commit() of nothing in a task, and a cancel of the own task": Program((Commit("task"), Cancel())),
    "before_commit(), commit() in a task that has not begun": Program((Before(), Commit("task"))),
    "run(), before_commit(), commit() in a task that has not begun": Program(
        (Run(), Before(), Commit("task"))
    ),
    "a panic at a commit() in a cancelled task, and no answer": Program(
        (Run(), Before("panics"), Commit("cancelled"), Later(answers=False))
    ),
    "a commit() that is refused, in a task, and no answer": Program(
        (Run("is refused at COMMIT"), Commit("task"), Later(answers=False))
    ),
    "after_commit() behind commit(), and no answer": Program(
        (Run(), Commit(), After(), Later(answers=False))
    ),
    # -- before_commit() beside commit()
    "before_commit(), commit()": Program((Before(), Commit())),
    "run(), before_commit(), commit()": Program((Run(), Before(), Before(), Commit())),
    "commit(), before_commit()": Program((Run(), Commit(), Before())),
    "before_commit() that raises, commit()": Program((Run(), Before("raises"), Commit())),
    "before_commit() that raises, commit(), swallowed": Program(
        (Run(), Before("raises"), Commit("swallowed"))
    ),
    # -- a BaseException, wherever it comes from
    **{
        f"{what} {where}": Program((Run(), step))
        for what, does in (
            ("a panic", "panics"),
            ("SystemExit", "exits"),
            ("GreenletExit", "ends its greenlet"),
        )
        for where, step in (
            ("in run()", Run(does)),
            ("in before_commit()", Before(does)),
            ("in in_new_transaction()", Group(((Afterwards(does), Afterwards()),))),
            ("in a flush hook at the settling", Run(f"{does} in a flush hook")),
            ("in a flush hook of before_commit()", Before(f"{does} in a flush hook")),
            (
                "in a flush hook of in_new_transaction()",
                Group(((Afterwards(f"{does} in a flush hook"), Afterwards()),)),
            ),
            ("in a flush hook at commit()", Group(((Run(f"{does} in a flush hook"), Commit()),))),
        )
    },
    "a panic in on_commit()": Program((Run(), After("panics"), After())),
    "a panic in on_commit(), at commit()": Program((Run(), After("panics"), After(), Commit())),
    # -- on_commit()
    "after_commit() meets a cancelled task": Program((Run(), After("meets a cancelled task"), After())),
    "after_commit() meets a cancelled task, at commit()": Program(
        (Run(), After("meets a cancelled task"), After(), Commit())
    ),
    # -- in_new_transaction() and deadlines
    "a statement hangs, with in_new_transaction()": Program(
        (Run("hangs"), Afterwards()), timeout_s=TIMEOUT_S
    ),
    "a statement hangs after commit()": Program(
        (Run(), Commit(), Sleep("past the deadline")), timeout_s=TIMEOUT_S
    ),
    "a handler that swallows the deadline's cancel": Program(
        (Run(), Sleep("through the deadline"), Status(201)), timeout_s=TIMEOUT_S
    ),
    # -- reads: the access line and the metric
    "a read that sets 404": Program((Run("reads"), Status(404)), method="GET"),
    "a read that calls commit()": Program((Run("reads"), Commit()), method="GET"),
    "a read that raises 404": Program((Run("reads"), Raise("404")), method="GET"),
    "a read that writes": Program((Run(),), method="GET"),
    # -- a run that is not awaited
    "a run that is forgotten": Program((Run(how="forgotten"),)),
    "a run that is forgotten after one that is not": Program((Run(), Run(how="forgotten"), Status(201))),
    "a read that is forgotten": Program((Run("reads", "forgotten"),), method="GET"),
    "a run that is forgotten before commit()": Program((Run(), Run(how="forgotten"), Commit())),
    "a run that is forgotten after commit()": Program((Run(), Commit(), Run(how="forgotten"), Status(201))),
    "a run that is forgotten while commit() is under way": Program(
        (SLOW, Commit("cancelled"), Run(how="forgotten"), Commit("cancelled"), Status(201))
    ),
    "a run that is forgotten, and a 404": Program((Run(how="forgotten"), Raise("404"))),
    # -- the client leaves
    "a read whose client leaves, and a late answer": Program((Later(), Leave()), method="GET"),
    "a write whose client leaves": Program((Run(), Leave(), Run())),
    "a write that leaves with its client": Program((Run(), Leave(), Sleep(), Sleep()), cancels=True),
    "a client that leaves while commit() is under way": Program((SLOW, Commit("task"), Leave(), Sleep())),
    "a client that takes its request along while commit() is under way": Program(
        (SLOW, Commit("cancelled"), Leave(), Raise("404")), cancels=True
    ),
    "a write that leaves with its client, and has done nothing yet": Program((Leave(),), cancels=True),
    # -- others
    "a file that another process writes to": Program((Run(),), busy=True),
    "a redirect in prepare": Program((Run(),), prepare=(Run(), Redirect())),
    "a connection that is lost during COMMIT": Program((Run("loses the connection at COMMIT"), Finish())),
    "a cancel of the own task": Program((Run(), Cancel())),
}

SLOW_ONES = {
    "afterwards() hangs": Program((Run(), Afterwards("hangs")), timeout_s=TIMEOUT_S),
    "COMMIT hangs": Program((Run("hangs at COMMIT"), After(), Afterwards()), timeout_s=TIMEOUT_S),
    "commit() hangs": Program((Run("hangs at COMMIT"), Commit()), timeout_s=TIMEOUT_S),
    "afterwards() hangs after a refusal": Program(
        (Run(), Afterwards("hangs"), Raise("404")), timeout_s=TIMEOUT_S
    ),
}
"""Two seconds each, and more."""
