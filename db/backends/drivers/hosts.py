"""The hosts of a connection's parameters, with their addresses: what libpq looks up and tries one by one.

`PQconnectStart` would look names up where it is called, with the interpreter's lock, and leaves all time-outs
to its caller: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PQCONNECTSTARTPARAMS
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import socket
from collections.abc import Mapping, Sequence

Parameters = dict[str, str]


def each_host(parameters: Mapping[str, str]) -> list[Parameters]:
    """The parameters of each host that they name, with that host alone; themselves where they name none.

    One that the environment names for libpq (PGHOST) is among them; a service file's hosts are left to libpq.
    """
    given = dict(parameters)
    if "service" in given or "PGSERVICE" in os.environ:
        return [given]
    names = _listed(given, "host", "PGHOST")
    addresses = _listed(given, "hostaddr", "PGHOSTADDR")
    ports = _listed(given, "port", "PGPORT")
    count = max(len(names), len(addresses))
    if count < 2 and len(ports) < 2:
        names, addresses = names or [""], addresses or [""]
    if len(ports) not in (0, 1, count):
        return [given]  # a fault that libpq explains
    found = []
    for at in range(max(count, 1)):
        own = dict(given)
        for name, values in (("host", names), ("hostaddr", addresses), ("port", ports)):
            value = values[at] if at < len(values) else values[0] if name == "port" and values else ""
            own.pop(name, None)
            if value:
                own[name] = value
        found.append(own)
    if given.get("load_balance_hosts", os.environ.get("PGLOADBALANCEHOSTS")) == "random":
        random.shuffle(found)
    return found


async def each_address(parameters: Parameters) -> Sequence[Parameters]:
    """The parameters of one host, for each address that its name has.

    Raises:
        OSError: the name is not known.
    """
    host = parameters.get("host", "")
    if not host or host[0] in "/@" or "hostaddr" in parameters or _is_address(host):
        return [parameters]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(str(address[0]) for *_, address in found)
    return [parameters | {"hostaddr": address} for address in addresses]


def _listed(parameters: Mapping[str, str], name: str, variable: str) -> list[str]:
    value = parameters.get(name, os.environ.get(variable, ""))
    return str(value).split(",") if value else []


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
