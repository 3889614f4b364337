"""A throw-away certificate authority with certificates for servers and clients."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificate:
    """Files of one certificate: its chain, and its key (0600)."""

    chain: Path
    key: Path


class Authority:
    """A certificate authority whose files lie in ``directory``.

    ``file`` is its certificate (PEM); ``folder`` a directory that holds nothing
    but that, for settings that name a directory.
    """

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._authority = trustme.CA(organization_name=f"test {name}")
        self._directory = directory / name
        self._issued = 0
        self.folder = self._directory / "certificates"
        self.folder.mkdir(parents=True)
        self.file = self.folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.file))

    def server(self, *names: str, expired: bool = False) -> Certificate:
        """A server's certificate for host names and addresses.

        Without names: ``localhost``, ``127.0.0.1`` and ``::1``.
        """
        return self._issue(names or ("localhost", "127.0.0.1", "::1"), None, expired)

    def client(self, common_name: str = "client", *, expired: bool = False) -> Certificate:
        """A client's certificate for ``common_name``."""
        return self._issue((f"{common_name}.test",), common_name, expired)

    def _issue(self, names: tuple[str, ...], common_name: str | None, expired: bool) -> Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        day = datetime.timedelta(days=1)
        issued = self._authority.issue_cert(
            *names,
            common_name=common_name,
            not_before=now - 2 * day if expired else None,
            not_after=now - day if expired else None,
        )
        self._issued += 1
        chain = self._directory / f"{self._issued}.pem"
        key = self._directory / f"{self._issued}.key"
        chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        key.touch(mode=0o600)
        key.write_bytes(issued.private_key_pem.bytes())
        return Certificate(chain, key)
