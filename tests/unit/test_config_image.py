"""Configurations as bytes: lossless, without any passphrase, and garbled ones are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from carp_fast.config import image
from carp_fast.config.image import ImageError
from carp_fast.config.load import load, load_settled
from carp_fast.config.model import (
    MAX_VIRTUAL_HOSTS,
    AnnounceRate,
    Configuration,
    ControlGroup,
    Daemon,
    Group,
    Labels,
    MetricsAddress,
    Origin,
    Settings,
    User,
    VirtualHost,
)
from carp_fast.config.secrets import create_key, encrypt, read_key
from carp_fast.config.tracks import KINDS
from carp_fast.engine._auth import Key, Passphrase
from carp_fast.engine.keys import Announce

texts = st.text(st.characters(codec="utf-8"), max_size=8)
words = st.lists(texts, max_size=3).map(tuple)
# Names of files are any bytes but NUL.
names = st.binary(max_size=8).map(lambda name: os.fsdecode(name.replace(b"\0", b"")))
paths = names.map(Path)
numbers = st.integers(0, 255)
origins = st.builds(Origin, names, texts, st.none() | st.integers(1, 9_999))
SPECIAL: dict[Any, st.SearchStrategy[Any]] = {
    "passphrase": st.binary(min_size=1, max_size=20).map(Passphrase),
    "origin": origins,
    "group": st.none() | st.builds(Group, texts, st.sampled_from(("any", "all"))),
    "announce": st.builds(
        Announce, count=st.integers(1, 10), interval_s=st.floats(0, 60), refresh_s=st.floats(0, 60)
    ),
    "announce_rate": st.builds(AnnounceRate, numbers, numbers, numbers),
    "control_group": st.none() | st.builds(ControlGroup, texts, st.none() | numbers),
    "user": st.none() | st.builds(User, texts, numbers, numbers),
    "metrics": st.none() | st.builds(MetricsAddress, texts, numbers, st.none() | paths),
}
OF_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    int: numbers,
    float: st.floats(0, 86_400),
    bool: st.booleans(),
    Path: paths,
    str | None: st.none() | texts,
    int | None: st.none() | numbers,
    Path | None: st.none() | paths,
    tuple[str, ...]: words,
}


def drawn(kind: Any) -> st.SearchStrategy[Any]:
    """Instances of a struct with drawn values in each of its fields."""
    values = {}
    for field in msgspec.structs.fields(kind):
        bare = getattr(field.type, "__origin__", None)  # of what is annotated with its rule
        of_type = OF_TYPE.get(bare if hasattr(field.type, "__metadata__") else field.type)
        known = SPECIAL.get(field.name, of_type)
        values[field.name] = st.from_type(field.type) if known is None else known
    return st.builds(kind, **values)


of_hosts, of_daemon = drawn(Settings), drawn(Daemon)
tracks = st.one_of([drawn(kind) for kind in KINDS.values()])
# A configuration has some hundred values, each drawn by itself.
patient = settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink one takes minutes
)


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    shared = draw(st.lists(of_hosts, min_size=1, max_size=3))
    labels = st.builds(Labels, texts, texts, texts)
    host = st.builds(VirtualHost, texts, numbers, words, words, st.sampled_from(shared), labels)
    return Configuration(
        path=draw(paths),
        files=draw(st.lists(paths, max_size=3).map(tuple)),
        daemon=draw(of_daemon),
        virtual_hosts=draw(st.lists(host, max_size=5)),
        warnings=draw(st.lists(names, max_size=3).map(tuple)),
        ended=draw(st.dictionaries(paths, st.booleans(), max_size=3)),
        patterns=draw(st.dictionaries(texts, numbers, max_size=3)),
        tracks=draw(st.lists(tracks, max_size=5).map(tuple)),
    )


@patient
@given(configurations())
def test_a_decoded_image_is_equal_to_its_configuration(configuration: Configuration) -> None:
    decoded = image.decode(image.encode(configuration))
    assert decoded == configuration
    former = [id(host.settings) for host in configuration.virtual_hosts]
    now = [id(host.settings) for host in decoded.virtual_hosts]
    assert list(map(former.index, former)) == list(map(now.index, now)), "shared as before"


def written(directory: Path, passphrase: str) -> Path:
    """A configuration file with a table for each way to give a passphrase."""
    key_file, secret = directory / "key", directory / "secret"
    create_key(key_file)
    secret.touch(mode=0o600)
    secret.write_text(f"{passphrase}\nnot this line\n")
    token = encrypt(passphrase.encode(), read_key(key_file))
    keys = (
        f'passphrase_file = "{secret}"',
        f'passphrase = "{token}"',
        f'passphrase = "{passphrase}"',
    )
    tables = [
        f"""
[[virtual_host]]
interface = "eth{number}"
vhid = "1-100"
addresses = ["{{10.{number}.0.1+index}}/32", "{{2001:db8::1+index}}/64"]
up = "/bin/true"
track = ["check"]
{key}
"""
        for number, key in enumerate(keys)
    ]
    path = directory / "carp-fast.toml"
    path.touch(mode=0o600)
    path.write_text(
        f"""
[daemon]
secret_key_file = "{key_file}"
[[track]]
name = "check"
kind = "script"
script = ["/bin/true", "an argument"]
{"".join(tables)}"""
    )
    return path


def test_an_image_of_files_has_no_passphrase_but_signs_as_it_does(tmp_path: Path) -> None:
    passphrase = "Zq7-rarely-seen-x"
    configuration = load_settled(written(tmp_path, passphrase))
    encoded = image.encode(configuration)
    assert passphrase.encode() not in encoded
    decoded = image.decode(encoded)
    assert decoded == configuration
    assert len({id(host.settings) for host in decoded.virtual_hosts}) == 3
    right = Key(passphrase.encode(), b"message").sign(bytes(8))
    for host in decoded.virtual_hosts:
        assert Key(host.settings.passphrase, b"message").sign(bytes(8)) == right


def test_the_text_of_a_passphrase_is_never_encoded(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the text of a passphrase"):
        image.encode(load(written(tmp_path, "secret")))


def test_an_image_of_another_format_or_with_wrong_numbers_is_refused() -> None:
    keys = Settings(passphrase=Passphrase(b"secret"))
    hosts = [VirtualHost("eth0", 1, ("192.0.2.1/24",), (), keys)]
    encoded = image.encode(Configuration(Path("/x"), (), Daemon(), hosts, ()))
    whole: list[Any] = msgspec.msgpack.decode(encoded)
    assert image.decode(msgspec.msgpack.encode(whole)).virtual_hosts == hosts

    def refused(position: int, value: object, text: str) -> None:
        wrong = [*whole[:position], value, *whole[position + 1 :]]
        with pytest.raises(ImageError, match=text):
            image.decode(msgspec.msgpack.encode(wrong))

    (host,) = whole[10]
    refused(0, 2, "format 2, not 1")
    refused(1, 0, "an? int in place of a Path")
    refused(7, [["no such kind", {}]], "no such kind")
    refused(7, [["file", {"name": 7}]], "Expected `str`")
    refused(9, [], "refers to what it does not have")
    refused(8, [], "refers to what it does not have")
    refused(10, [[-1, *host[1:]]], "refers to what it does not have")
    refused(10, [[*host[:-1], 1]], "refers to what it does not have")
    refused(10, [host] * (MAX_VIRTUAL_HOSTS + 1), "larger than a configuration may be")
    refused(8, [[*whole[8][0][:14], b"short", *whole[8][0][15:]]], "40 bytes, not 5")


@patient
@given(configurations(), st.data())
def test_garbled_bytes_are_refused_or_are_another_configuration(
    configuration: Configuration, data: st.DataObject
) -> None:
    encoded = bytearray(image.encode(configuration))
    with pytest.raises(ImageError):
        image.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    for _ in range(3):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(numbers)
    try:
        assert isinstance(image.decode(encoded), Configuration)
    except ImageError:
        pass
