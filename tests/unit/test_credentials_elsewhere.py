"""`check` and `dump` where systemd has given no credentials: a warning, and the rest is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from carp_fast.capture.pcap import Writer
from carp_fast.cli import main as cli
from carp_fast.config.load import ConfigurationError, load, load_settled
from carp_fast.config.secrets import create_key, encrypt, read_key
from tests.support.configurations import HOST, host, write
from tests.support.segment import advertisement, ip

CREDENTIAL = host(passphrase="", passphrase_credential='"carp"')
TOKEN = "encrypted:" + "x" * 100
ENCRYPTED = host(passphrase=f'"{TOKEN}"')


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [*map(str, arguments)], prog_name="carp-fast")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (CREDENTIAL, '6: virtual_host[1]: passphrase_credential = "carp"'),
        (
            f'[defaults]\npassphrase_credential = "carp"\n{host(passphrase="")}',
            '2: defaults: passphrase_credential = "carp"',
        ),
        (ENCRYPTED, "6: virtual_host[1]: passphrase = (hidden)"),
    ],
)
def test_check_warns_and_prints_the_plan(tmp_path: Path, text: str, place: str) -> None:
    path = write(tmp_path, text)
    result = run("check", "-c", path)
    assert result.exit_code == 0
    first = result.stderr.splitlines()[0]
    assert first.startswith(f"warning: {path}:{place}: not checked here: systemd gives")
    assert "total" in result.stdout


@pytest.mark.parametrize("text", [CREDENTIAL, ENCRYPTED])
def test_the_daemon_refuses_what_check_only_warns_of(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    for read in (load, load_settled):
        with pytest.raises(ConfigurationError):
            read(path)


def test_a_table_without_its_credential_has_not_the_passphrase_of_defaults(tmp_path: Path) -> None:
    text = f'[defaults]\npassphrase = "other"\n{CREDENTIAL}{host(vhid="8", passphrase="")}'
    unknown, known = load(write(tmp_path, text), without_credentials=True).virtual_hosts
    assert (unknown.settings.passphrase, known.settings.passphrase) == (b"", b"other")


def test_other_faults_of_passphrases_remain_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No passphrase, two of them, a broken key file, and a service whose credential is absent.
    key = tmp_path / "key"
    key.write_text("broken")
    key.chmod(0o600)
    broken = f'[daemon]\nsecret_key_file = "{key}"\n'
    two = host(passphrase_credential='"carp"')
    for text in (host(passphrase=""), two, broken + ENCRYPTED):
        assert run("check", "-c", write(tmp_path, text)).exit_code == 1
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for text in (CREDENTIAL, ENCRYPTED):
        assert run("check", "-c", write(tmp_path, text)).exit_code == 1


def test_inside_the_service_the_credential_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "carp").write_text("secret\n")
    create_key(tmp_path / "carp-fast.key")
    token = encrypt(b"secret", read_key(tmp_path / "carp-fast.key"))
    for text in (CREDENTIAL, host(passphrase=f'"{token}"')):
        result = run("check", "-c", write(tmp_path, text))
        assert result.exit_code == 0
        assert "not checked" not in result.stderr
        (made,) = load(tmp_path / "carp.toml", without_credentials=True).virtual_hosts
        assert made.settings.passphrase == b"secret"


def recorded(directory: Path, *frames: bytes) -> Path:
    path = directory / "some.pcap"
    with path.open("wb") as file:
        writer = Writer(file)
        for frame in frames:
            writer.write(10**18, frame)
    return path


def test_dump_says_that_a_digest_is_not_verified(tmp_path: Path) -> None:
    path = write(tmp_path, CREDENTIAL + HOST.replace("vhid = 7", "vhid = 8"))
    right = load(path, without_credentials=True).virtual_hosts[1].settings.passphrase
    file = recorded(
        tmp_path,
        advertisement(vhid=7, passphrase=b"whatever"),
        advertisement(vhid=8, passphrase=b"whatever"),
        advertisement(vhid=8, passphrase=right, addresses=(ip("192.0.2.10"),)),
        advertisement(vhid=9),
        # An unknown passphrase is not an empty one.
        advertisement(vhid=8, passphrase=b"", addresses=(ip("192.0.2.10"),)),
    )
    result = run("dump", "-r", file, "-c", path)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[0] == (
        "warning: digests of 1 virtual hosts are not verified: their passphrases need a systemd"
        " credential, and $CREDENTIALS_DIRECTORY is not set"
    )
    verdicts = [line.split("  ")[-1] for line in result.stdout.splitlines()]
    assert verdicts[0] == "ok: digest not verified: the passphrase of eth0/7 is unknown here"
    assert verdicts[1].startswith("bad_auth")
    assert verdicts[2] == "ok"
    assert verdicts[3].startswith("bad_vhid")
    assert verdicts[4].startswith("bad_auth")
    assert "eth0/7" not in verdicts[4]
