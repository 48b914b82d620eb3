"""SFTP: our own version 3 client over an SSH connection of asyncssh's."""

from crossdock.storage.sftp.backend import SftpBackend
from crossdock.storage.sftp.settings import SftpSettings
from crossdock.storage.sftp.trust import HostKey, offered_keys

__all__ = ["HostKey", "SftpBackend", "SftpSettings", "offered_keys"]
