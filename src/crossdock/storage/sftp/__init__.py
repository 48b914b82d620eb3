"""SFTP: our own version 3 client over an SSH connection of asyncssh's."""

# The settings alone: a configuration that names a server does not load an SSH client before it is used.
from crossdock.storage.sftp.settings import SftpSettings

__all__ = ["SftpSettings"]
