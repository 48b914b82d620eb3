"""`StorageSuite`: every promise of the storage contract, for a backend's test to inherit whole."""

from __future__ import annotations

from crossdock.testing.storage.base import FolderPeer, Peer
from crossdock.testing.storage.changes import DeleteCases, FolderCases, RenameCases
from crossdock.testing.storage.conflicts import ConflictCases, CopyCases, PinnedCases
from crossdock.testing.storage.looks import LookCases
from crossdock.testing.storage.names import NameCases
from crossdock.testing.storage.reads import ConcurrencyCases, ReadCases, SizeCases
from crossdock.testing.storage.resume import ResumeCases
from crossdock.testing.storage.writes import WriteCases

__all__ = ["FolderPeer", "Peer", "StorageSuite"]


class StorageSuite(
    LookCases,
    DeleteCases,
    RenameCases,
    FolderCases,
    WriteCases,
    ConflictCases,
    ResumeCases,
    CopyCases,
    PinnedCases,
    ReadCases,
    SizeCases,
    ConcurrencyCases,
    NameCases,
):
    """Inherit it and supply `storage`, an open `Storage` on an empty scratch root of its own:

        class TestMine(StorageSuite):
            @pytest.fixture
            async def storage(self):
                async with Storage(MyBackend(...)) as storage:
                    yield storage

    Also supply `peer`, if there is another way to the same bytes, and the knobs of `SuiteBase` where the endpoint
    differs. Only a declared capability excuses a case, and then the opposite is tested: the method is Unsupported.
    """
