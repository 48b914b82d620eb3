"""What only the target of a sync has: whether it is plausible that all of it is to go."""

from __future__ import annotations

from crossdock.errors import Conflict

__all__ = ["check_plausible"]


def check_plausible(where: str, surplus: int, *, held: int, found: int, failed: int, bound: int | float) -> None:
    """Raise `Conflict` unless `surplus` of `held` files may be deleted, after `found` were listed and `failed` of them.

    `bound`: as `SyncOptions.max_delete`.
    """
    what = f"sync {where}: {surplus} of {held} files would be deleted"
    if not found:
        raise Conflict(f"{what}, but the source is empty; nothing was deleted", hint="check the source")
    if failed:
        raise Conflict(f"{what}, but {failed} failed; nothing was deleted", hint="mend what failed, then run it again")
    limit = bound if isinstance(bound, int) else int(bound * held)
    if surplus > limit:
        raise Conflict(
            f"{what}, more than the {limit} that --max-delete allows; nothing was deleted",
            hint="check the source, then raise --max-delete",
        )
