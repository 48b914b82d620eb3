"""FTP and FTPS: our own client over blocking sockets, one thread per control connection."""

# The settings alone: a configuration that names a server does not load the client before it is used.
from crossdock.storage.ftp.settings import FtpSettings

__all__ = ["FtpSettings"]
