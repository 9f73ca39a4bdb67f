"""Configuration: known keys are accepted, others are refused, and the document agrees."""

from __future__ import annotations

import ipaddress
import re
import socket
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import Reactor
from tests.tunnel.helpers import OPENSSL
from tunnel.config import SETTINGS, NodeConfig, Setting, load_config, make_config
from tunnel.config.kinds import write_toml
from tunnel.config.repeated import REPEATED, ForwardEntry, PublishEntry, SocksEntry, reference
from tunnel.config.settings import REQUIRED, TABLES
from tunnel.errors import CannotListen, ConfigError
from tunnel.established import Target, TargetKind, TunnelLimits
from tunnel.front.socks_server import Isolation
from tunnel.geometry import Profile
from tunnel.identity.client_key import ClientKey
from tunnel.identity.descriptor import Address
from tunnel.identity.keys import NodeKeys
from tunnel.link.handshake import PaddingMode
from tunnel.node import LOCAL_NETWORK_ID, Limits
from tunnel.node.limits import LinkPolicy
from tunnel.running import ConfiguredNode
from tunnel.services import ExitSettings, FilesSettings

OWN_NETWORK = f"[node]\nnetwork = '{'ab' * 16}'\n"
DOCUMENT = Path(__file__).parents[1] / "docs" / "configuration.md"


def make(text: str = "", **environment: str) -> NodeConfig:
    return make_config(tomllib.loads(text), folder=Path("/x"), source="node.toml", environment=environment)


def refused(text: str = "", **environment: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        make(text, **environment)
    return caught.value


def test_an_empty_file_has_the_defaults_of_the_classes() -> None:
    config = make()
    assert config.limits == Limits()
    assert config.files_settings == FilesSettings()
    assert (config.rules, config.exit_settings) == ((), ExitSettings())
    assert config.network == LOCAL_NETWORK_ID
    assert (config.state, config.keys) == (Path("/x/state"), Path("/x/state/keys"))
    assert config.listen == Address("127.0.0.1", 0)
    assert config.publish is None


def test_every_declared_limit_can_be_set() -> None:
    known = {(setting.owner, setting.key) for setting in SETTINGS}
    for owner, kind in [
        ("limits", Limits),
        ("tunnel", TunnelLimits),
        ("files", FilesSettings),
        ("exit", ExitSettings),
    ]:
        names = {field.name for field in fields(kind) if "help" in field.metadata}
        assert names == {key for found, key in known if found == owner}
    assert len(known) <= 55


def test_every_setting_is_explained_and_has_a_default_of_its_kind() -> None:
    assert {setting.table for setting in SETTINGS} == set(TABLES)
    assert len({(setting.table, setting.key) for setting in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:
        assert setting.meaning, setting.key
        assert setting.kind.expected, setting.key
        setting.kind.check(setting.default)


def test_the_document_is_made_from_the_settings() -> None:
    assert DOCUMENT.read_text(encoding="utf-8").endswith(f"\n\n{reference()}"), "python -m tests.test_config"
    assert DOCUMENT.read_text(encoding="utf-8").count("\n## [") == len(TABLES) + len(REPEATED)


KEY = "0f" * 32


def test_the_ports_for_programs() -> None:
    config = make(f"""
        [[socks]]
        exit = "{KEY}"
        [[socks]]
        exit = "node-7"
        listen = "[::1]:0"
        isolate = "Connection"
        hops = 2
        users = "users"
        [[socks]]
        exit = "node-7"
        listen = "./socks"
        [[forward]]
        listen = "5432"
        to = "node-7:postgres"
        [[forward]]
        listen = "0.0.0.0:80"
        to = "{KEY}/[::1]:80"
        key = "/keys/friend"
        public = true
    """)
    assert config.socks == (
        SocksEntry(KEY, ("127.0.0.1", 1080), None, Isolation.AUTH, None),
        SocksEntry("node-7", ("::1", 0), 2, Isolation.CONNECTION, Path("/x/users")),
        SocksEntry("node-7", Path("/x/socks"), None, Isolation.AUTH, None),
    )
    service, address = Target(TargetKind.SERVICE, b"postgres"), Target(TargetKind.IPV6, bytes(15) + b"\1", 80)
    assert config.forwards == (
        ForwardEntry(("127.0.0.1", 5432), ("node-7", service), None, None, False),
        ForwardEntry(("0.0.0.0", 80), (KEY, address), None, Path("/keys/friend"), True),
    )


def test_a_repeated_table_has_one_entry_for_each_occurrence() -> None:
    assert make("").published == ()
    config = make(f"""
        [[publish]]
        name = "ssh"
        to = "127.0.0.1:22"
        [[publish]]
        name = "web"
        to = "[::1]:80"
        clients = ["{KEY}"]
    """)
    assert config.published == (
        PublishEntry("ssh", ("127.0.0.1", 22), None),
        PublishEntry("web", ("::1", 80), (bytes.fromhex(KEY),)),
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('[[exit]]\nrules = ["allow *"]', "[exit] occurs once", "write [exit], not [[exit]]"),
        ('[publish]\nname = "a"', "may occur several times", "write [[publish]]"),
        ('publish = ["a"]', "may occur several times", "write [[publish]]"),
        ('[[publish]]\nname = "a"', "[[publish]] 1: to is missing", "a host and a port"),
        ('[[publish]]\nname = "a"\nto = ""', "[[publish]] 1: to = ''", ""),
        ('[[publish]]\nname = "a b"\nto = "h:1"', "name = 'a b': expected a name", ""),
        ('[[publish]]\nnam = "a"', "there is no key 'nam'", "did you mean name?"),
        ('[[socks]]\nexit = "a"\nlisten = 1080', "listen = 1080: expected", 'did you mean "1080"?'),
        ('[[socks]]\nrules = ["allow *"]', "there is no key 'rules'", "rules belongs in [exit]"),
        ('[[forward]]\nexit = "a"', "there is no key 'exit'", "exit belongs in [[socks]]"),
        ('[[publish]]\nname = "a"\nto = "h:1"\nclients = ["ff"]', "64 hex digits", ""),
        ('[[publish]]\nname = "a"\nto = "h:1"\nclients = []', "a list of 1 to 1024", ""),
        ('[[publish]]\nname = "ping"\nto = "h:1"', "two services have the name 'ping'", "another name"),
        ('[[publis]]\nname = "a"', "there is no table [publis]", "did you mean [[publish]]?"),
        ('[[node]]\nlisten = "a"', "[node] occurs once", "write [node], not [[node]]"),
        ("[[publish]]\n" * 65, "occurs 65 times", ""),
        ("[[socks]]", "[[socks]] 1: exit is missing", "the name of a peer file"),
        ('[[socks]]\nexit = ""', "exit = '': expected 64 hex digits", ""),
        ('[[socks]]\nexit = "a"\nlisten = "host:1080"', "listen = 'host:1080': expected a port", ""),
        ('[[socks]]\nexit = "a"\nlisten = 1080', "listen = 1080: expected a port", ""),
        ('[[socks]]\nexit = "a"\nhops = 127', "hops = 127: expected a whole number, 0 to 126, or empty", ""),
        ('[[forward]]\nlisten = "0"', "[[forward]] 1: to is missing", "NODE:SERVICE"),
        ('[[forward]]\nlisten = "a"\nto = "a:b"', "listen = 'a': expected a port", ""),
        ('[[forward]]\nlisten = "0"\nto = "a"', "[[forward]] 1: to: no service: expected NODE:SERVICE", ""),
        ('[[forward]]\nlisten = "0"\nto = "a/b"', "no port: expected HOST:PORT", ""),
        (f'[[socks]]\nexit = "{KEY}"\nisolate = "none"', 'one of "auth", "listener", "connection"', ""),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make(text)
    assert message in str(refused.value)
    assert hint in refused.value.hint


def test_every_key_of_a_repeated_table_is_explained() -> None:
    for kind in REPEATED.values():
        assert [row.key for row in kind.rows] == [field.name for field in fields(kind.entry)]
        for row in kind.rows:
            assert row.meaning, row.key
            if row.default is not REQUIRED:
                row.kind.check(row.default)


def test_the_example_of_the_document_is_a_configuration() -> None:
    example = DOCUMENT.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    config = make(example)
    assert config.listen == Address("0.0.0.0", 4000)
    assert config.advertise == (Address("10.8.0.7", 4000),)
    assert config.private_ranges == (ipaddress.ip_network("10.8.0.0/24"),)
    assert config.files == (Path("/x/peers"),)
    assert len(config.network) == 16


def test_values_of_each_kind() -> None:
    config = make("""
        [node]
        state = "/var/s"
        keys = "k"
        listen = "[::1]:4000"
        advertise = ["10.0.2.1:1", "[fd00::1]:2"]
        network = "local"
        profiles = ["bulk", "default-hctr"]
        log_level = "debug"
        [links]
        links = 7
        link_policy = "once"
        [timeouts]
        idle_s = 5
        dial_s = 0.5
        [padding]
        padding = "constant"
        [limits]
        sub_streams = 4
        [files]
        may_replace = true
    """)
    assert (config.state, config.keys) == (Path("/var/s"), Path("/x/k"))
    assert config.listen == Address("::1", 4000)
    assert config.advertise == (Address("10.0.2.1", 1), Address("fd00::1", 2))
    assert config.profiles == (Profile.from_name("bulk"), Profile.from_name("default-hctr"))
    assert config.log_level == "DEBUG"
    assert config.limits == Limits(
        links=7,
        link_policy=LinkPolicy.ONCE,
        idle_s=5.0,
        dial_s=0.5,
        padding=PaddingMode.CONSTANT,
        tunnel=TunnelLimits(sub_streams=4),
    )
    assert config.files_settings == FilesSettings(may_replace=True)


def test_the_rights_to_files(tmp_path: Path) -> None:
    key, own = "ab" * 32, FilesSettings(quota_bytes=7)
    config = make(f"[files]\nread = ['secret', '{key}']\nwrite = []\nsecret_file = 's'\nquota_bytes = 7\n")
    rights = config.files_rights
    assert rights.secret_file == Path("/x/s")
    secret = tmp_path / "s"
    secret.write_text("a secret of many words\n")
    secret.chmod(0o600)
    found = replace(rights, secret_file=secret).apply(config.files_settings, OPENSSL)
    shared = ClientKey.of_secret("a secret of many words").public(OPENSSL)
    assert found == replace(own, read={bytes.fromhex(key), shared}, write=[])
    assert found.list is None, "the default is everybody"
    # The environment: a list with commas; MTUN_SECRET is for commands.
    config = make(MTUN_FILES_LIST=f"{key}, {key}", MTUN_FILES_WRITE="", MTUN_SECRET="x")
    found = config.files_rights.apply(own, OPENSSL)
    assert found == replace(own, list=[bytes.fromhex(key)], write=[])
    assert make().files_rights.apply(own, OPENSSL) == own


def test_the_secret_of_the_files_is_not_among_them() -> None:
    text = (
        "[service]\nnames = ['files']\n[files]\nread = ['secret']\nfolder = 'f'\nsecret_file = 'f/secret'\n"
    )
    assert "the node keeps its own files there" in str(refused(text))


def test_the_rules_of_an_exit() -> None:
    rules = ("deny 192.0.2.0/24", "allow *.example.org 80,443", "allow * 8000-8999")
    config = make(f"[exit]\nrules = {list(rules)}\nconnections = 7\nconnect_s = 0.5\n")
    assert config.rules == rules
    assert config.exit_settings == ExitSettings(connections=7, connect_s=0.5)
    # Rules contain commas: another sign stands between them.
    assert make(MTUN_EXIT_RULES="; ".join(rules)).rules == rules
    assert make(MTUN_EXIT_RULES="").rules == ()


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ("['allow * 80', 'allow * http']", "exit rule 'allow * http': the ports 'http': expected 1 to 65535"),
        ("['allow 10.0.0.1/8']", "expected 10.0.0.0/8"),
        ("'allow *'", 'expected a list of at most 256, each "allow" or "deny"'),
        ("[1]", 'expected a list of at most 256, each "allow" or "deny"'),
        (f"{['allow *'] * 257}", "expected a list of at most 256"),
    ],
)
def test_a_wrong_rule_of_an_exit_is_named(rules: str, words: str) -> None:
    error = refused(f"[exit]\nrules = {rules}\n")
    assert str(error).startswith("node.toml: [exit] rules")
    assert words in str(error)


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("[nod]\n", "there is no table [nod]", "did you mean [node]?"),
        ("[zzzzzz]\n", "there is no table [zzzzzz]", "there are [node], "),
        ("[revers]\n", "there is no table [revers]", "did you mean reverse? It belongs in [service]"),
        ("[reverse]\nx = 1\n", "there is no table [reverse]", "reverse belongs in [service]"),
        ("[[reverse]]\n", "there is no table [reverse]", "reverse belongs in [service]"),
        ("[names]\n", "there is no table [names]", "names belongs in [service]"),
        ("[ping]\n", "there is no table [ping]", '[service]: names = ["ping"]'),
        ("[services]\n", "there is no table [services]", "did you mean [service]?"),
        ("[forwards]\n", "there is no table [forwards]", "did you mean [[forward]]?"),
        ("listen = '127.0.0.1:1'\n", "listen = … is in no table", "[node] or [[socks]] or [[forward]]"),
        ("rules = ['allow *']\n", "rules = … is in no table", "rules belongs in [exit]"),
        ("[service]\nrules = ['allow *']\n", "no key 'rules'", "rules belongs in [exit]"),
        ("[service]\nto = 'h:1'\n", "no key 'to'", "to belongs in [[publish]] or [[forward]]"),
        ("[exit]\nquota_bytes = 1\n", "no key 'quota_bytes'", "quota_bytes belongs in [files]"),
        ("[service.publish]\nname = 'a'\n", "no key 'publish'", "write [[publish]] on a separate line"),
        ("[node.padding]\npadding = 'off'\n", "no key 'padding'", "write [padding] on a separate line"),
        ("node = 1\n", "expected a table", "[node]"),
        ("[node]\nlistne = 'x'\n", "[node] has no key 'listne'", "did you mean listen?"),
        ("[node]\nidle_s = 1\n", "[node] has no key 'idle_s'", "idle_s belongs in [timeouts]"),
        ("[service]\nqqq = 1\n", "[service] has no key 'qqq'", "[service] has names"),
        ("[node]\nlisten = 4000\n", "[node] listen = 4000: expected an IP address and a port", ""),
        ("[exit]\nrules = 'allow *'\n", "expected a list", 'write a list: rules = ["allow *"]'),
        ("[peers]\nfiles = 'peers'\n", "expected a list", 'write a list: files = ["peers"]'),
        ("[files]\nread = 'secret'\n", "or a list", 'write a list: read = ["secret"]'),
        ("[node]\nlisten = '4000'\n", "[node] listen = '4000': expected", 'did you mean "127.0.0.1:4000"?'),
        ("[service]\nreverse = ['9000']\n", "[service] reverse = ['9000']: expected", ""),
        ("[node]\nlisten = 'localhost:1'\n", "expected an IP address", ""),
        ("[node]\nlisten = '::1:4000'\n", "expected an IP address", ""),
        ("[node]\nlisten = '127.0.0.1:65536'\n", "expected an IP address", ""),
        ("[node]\nlisten = '0.0.0.0:1'\n", "others cannot dial this address", "[node] advertise"),
        ("[node]\nadvertise = ['127.0.0.1:0']\n", "[node] advertise", ""),
        ("[node]\nnetwork = 'abc'\n", '"local", or 32 hex digits', ""),
        ("[node]\nlisten = '192.168.0.7:1'\n", "network is not set", "32 random hex digits"),
        ("[node]\nlisten = '8.8.8.8:1'\n", "network is not set", "the same in all nodes"),
        ("[node]\nlisten = '8.8.8.8:1'\nnetwork = 'local'\n", "one machine or one LAN", "32 hex digits"),
        (OWN_NETWORK, "[node] listen = 127.0.0.1: private addresses are not dialled", "private_ranges"),
        (
            OWN_NETWORK + "listen = '1.2.3.4:5'\nadvertise = ['10.1.1.1:5']\n",
            "[node] advertise = 10.1.1.1: private addresses",
            'listen = "none"',
        ),
        ("[node]\nprivate_ranges = ['1.2.3.0/24']\n", "a range of private addresses", ""),
        ("[node]\nprivate_ranges = ['10.8.0.1/24']\n", "a range of private addresses", ""),
        ("[node]\nprivate_ranges = '10.8.0.0/24'\n", "a list of at most 16", ""),
        ("[node]\nprofiles = ['huge']\n", 'one of "interactive"', ""),
        ("[node]\nstate = 1\n", "[node] state = 1: expected a path", ""),
        ("[links]\nlinks = true\n", "[links] links = True: expected a whole number", ""),
        ("[links]\nlinks = 0\n", "a whole number, 1 to", ""),
        ("[links]\nlinks = 1.0\n", "a whole number", ""),
        ("[links]\nlink_policy = 'twice'\n", 'one of "pooled", "once"', ""),
        ("[timeouts]\nidle_s = 0\n", "a number of seconds, 0.001 to", ""),
        ("[timeouts]\nidle_s = nan\n", "a number of seconds, 0.001 to", ""),
        ("[timeouts]\nidle_s = '1'\n", "[timeouts] idle_s = '1'", ""),
        ("[limits]\nbuffer_bytes = 1\n", "a whole number of bytes, 1,048,576 to", ""),
        ("[files]\nmay_replace = 1\n", "expected true or false", ""),
        ("[files]\nread = 'everybody'\n", '["everybody"], or a list of at most 1024', ""),
        ("[files]\nread = ['everybody', 'secret']\n", '["everybody"], or a list', ""),
        ("[files]\nlist = ['secrets']\n", 'each "secret" or 64 hex digits', ""),
        ("[files]\nwrite = ['abcd']\n", "64 hex digits, the public key of a client", ""),
        ("[files]\nlist = [1]\n", "[files] list = [1]: expected", ""),
        ("[files]\nlist = ['secret']\n", "secret_file is not given", "mode 0600"),
        ("[files]\nsecret_file = 's'\n", "no right needs it", 'read = ["secret"]'),
        ("[files]\nmay_put = false\n", "[files] may_put is no longer a setting", "write = []"),
        ("[links]\nlink_tick_s = 2\n", "[links] link_tick_s is no longer a setting", "is built in"),
        ("[padding]\npadding_units = 2\n", "[padding] padding_units is no longer a setting", "is built in"),
        ("[tunnels]\nearly = true\n", "[tunnels] early is no longer a setting", "is built in"),
        ("[tunnels]\nsub_streams = 9\n", "is no longer a setting", "it is in [limits] now"),
        ("[timeouts]\nlink_tick_s = 2\n", "[timeouts] has no key 'link_tick_s'", "[timeouts] has"),
        ("[peers]\nfiles = 'peers'\n", "a list of at most 64", ""),
    ],
)
def test_an_error_names_the_file_the_key_and_the_expected_value(text: str, words: str, hint: str) -> None:
    error = refused(text)
    assert str(error).startswith("node.toml: ")
    assert words in str(error)
    assert hint in error.hint


def test_the_environment_overrides_the_file() -> None:
    text = "[node]\nlisten = '127.0.0.1:1'\n[links]\nlinks = 9\n"
    config = make(
        text,
        MTUN_NODE_LISTEN="none",
        MTUN_LINKS_LINK_POLICY="once",
        MTUN_TIMEOUTS_IDLE_S="2.5",
        MTUN_FILES_MAY_REPLACE="TRUE",
        MTUN_PEERS_FILES="a, b",
        HOME="/root",
    )
    assert config.listen is None
    assert config.limits.links == 9
    assert config.limits.link_policy is LinkPolicy.ONCE
    assert config.limits.idle_s == 2.5
    assert config.files_settings.may_replace
    assert config.files == (Path("/x/a"), Path("/x/b"))


@pytest.mark.parametrize(
    ("name", "value", "words", "hint"),
    [
        ("MTUN_NODE_LISTNE", "x", "there is no setting MTUN_NODE_LISTNE", "did you mean MTUN_NODE_LISTEN?"),
        ("MTUN_REVERSE", "x", "there is no setting MTUN_REVERSE", "did you mean MTUN_SERVICE_REVERSE?"),
        ("MTUN_NODE_RULES", "x", "no setting MTUN_NODE_RULES", "did you mean MTUN_EXIT_RULES?"),
        ("MTUN_SOCKS_EXIT", "x", "no setting MTUN_SOCKS_EXIT", "[[socks]] is possible only in the"),
        ("MTUN_LINKS_LINKS", "many", "environment: MTUN_LINKS_LINKS = 'many': expected a whole number", ""),
        ("MTUN_FILES_MAY_REPLACE", "maybe", "expected true or false", ""),
        ("MTUN_FILES_READ", "nobody", "64 hex digits", ""),
        ("MTUN_FILES_MAY_GET", "true", "MTUN_FILES_MAY_GET is no longer a setting", 'read = ["everybody"]'),
        (
            "MTUN_LINKS_LINK_TICK_S",
            "5",
            "environment: MTUN_LINKS_LINK_TICK_S is no longer a setting",
            "built in",
        ),
        ("MTUN_TIMEOUTS_IDLE_S", "inf", "expected a number", ""),
    ],
)
def test_a_wrong_variable_is_refused(name: str, value: str, words: str, hint: str) -> None:
    error = refused(**{name: value})
    assert words in str(error)
    assert hint in error.hint


@pytest.mark.parametrize(
    "content", [b"[node", b"\xff\xfe", b"x" * ((1 << 20) + 1)], ids=["cut", "bytes", "long"]
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)):
        load_config(path, {})


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        (
            "[service]\nnames = ['files']\n[files]\nfolder = 'file'\n",
            "cannot use its folder",
            "[files] folder",
        ),
        ("[peers]\npublish = 'file/me'\n", "the descriptor cannot be written", "[peers] publish"),
        ("[node]\nkeys = '.'\n", "is a folder, not a key file", "[node] keys"),
        (
            "[node]\nlisten = '192.168.2.77:4000'\nnetwork = 'local'\n",
            "cannot listen on 192.168.2.77, port 4000",
            "[node] advertise",
        ),
        ("[node]\nlisten = '127.0.0.1:{port}'\n", "cannot listen on 127.0.0.1", "listens there"),
    ],
    ids=["files folder", "publish", "keys", "address", "port"],
)
def test_places_that_a_node_cannot_use_are_named_with_their_setting(
    tmp_path: Path, text: str, words: str, hint: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "state").mkdir(mode=0o700)
    NodeKeys.generate(1e9).save(tmp_path / "state" / "keys")
    with socket.create_server(("127.0.0.1", 0)) as taken, Reactor() as reactor:
        text = text.format(port=taken.getsockname()[1])
        config = make_config(tomllib.loads(text), folder=tmp_path, source="node.toml", environment={})
        with (
            pytest.raises((ConfigError, CannotListen), match=re.escape(words)) as caught,
            ConfiguredNode(config, reactor),
        ):
            pass
    assert hint in caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_config(tmp_path / "node.toml", {})
    assert caught.value.hint


def test_written_settings_are_read_back(tmp_path: Path) -> None:
    tables: dict[str, dict[str, Any]] = {
        "node": {"state": 'a "quoted" \\ é', "listen": "none"},
        "service": {"names": ["echo"]},
    }
    path = tmp_path / "node.toml"
    path.write_text(write_toml(tables), encoding="utf-8")
    assert tomllib.loads(path.read_text(encoding="utf-8")) == tables
    assert load_config(path, {}).names == ("echo",)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20), st.lists, max_leaves=5
)


def outcome(tables: dict[str, Any], **environment: str) -> NodeConfig | ConfigError:
    """The configuration, or its ConfigError. Any other error fails the test."""
    try:
        return make_config(tables, folder=Path("/x"), source="f", environment=environment)
    except ConfigError as error:
        return error


@given(st.sampled_from(SETTINGS), VALUES)
def test_any_value_is_taken_or_refused_as_documented(setting: Setting, value: Any) -> None:
    result = outcome({setting.table: {setting.key: value}})
    assert isinstance(result, NodeConfig) or setting.key in str(result)


@given(st.sampled_from(SETTINGS), st.text(max_size=30))
def test_any_variable_is_taken_or_refused_as_documented(setting: Setting, text: str) -> None:
    result = outcome({}, **{setting.variable: text})
    assert isinstance(result, NodeConfig) or setting.key.upper() in str(result).upper()


@pytest.mark.parametrize(
    "text",
    [
        'folder = "state"',
        'folder = "state/../state"',
        'folder = "."',
        'folder = "secrets"\n[node]\nkeys = "secrets/keys"',
        'folder = "peers"\n[peers]\nfiles = ["peers"]',
        'folder = "out"\n[peers]\npublish = "out/me"',
    ],
)
def test_the_files_service_has_a_folder_for_nothing_else(text: str) -> None:
    """Otherwise strangers could fetch the keys, or store a file that the node reads as a peer file."""
    error = refused(f'[service]\nnames = ["files"]\n[files]\n{text}')
    assert "the node keeps its own files there" in str(error)


@pytest.mark.parametrize(
    "text", ['[node]\nstate = ""', '[files]\nfolder = ""', '[peers]\nfiles = ["peers", ""]']
)
def test_an_empty_path_is_not_the_folder_of_the_configuration(text: str) -> None:
    assert "expected a" in str(refused(text))


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ('"10GiB"', 10 << 30),
        ('"1GB"', 10**9),
        ('"64 MiB"', 64 << 20),
        ('"2097152"', 2 << 20),
        ("2097152", 2 << 20),
    ],
)
def test_sizes_are_written_as_on_the_command_line(tmp_path: Path, value: str, count: int) -> None:
    path = tmp_path / "node.toml"
    path.write_text(f"[limits]\nbuffer_bytes = {value}\n")
    assert load_config(path, {}).limits.buffer_bytes == count
    path.write_text("")
    environment = {"MTUN_LIMITS_BUFFER_BYTES": value.strip('"')}
    assert load_config(path, environment).limits.buffer_bytes == count


@pytest.mark.parametrize("value", ['"10 apples"', '"1k"', '"-1"', "true", "1.5"])
def test_a_bad_size_is_refused_with_the_expected_form(tmp_path: Path, value: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(f"[limits]\nbuffer_bytes = {value}\n")
    with pytest.raises(ConfigError, match=r'expected a whole number of bytes, .*or text as "10k", "64MiB"'):
        load_config(path, {})


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ('[service]\nnames = ["ping", "fiels"]', "files"),
        ('[node]\nengine = "opensl"', "openssl"),
        ('[padding]\npadding = "possion"', "poisson"),
    ],
)
def test_a_mistyped_choice_is_answered_with_the_nearest(tmp_path: Path, text: str, nearest: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert caught.value.hint == f"did you mean {nearest}?"


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b"\xef\xbb\xbf[service]\r\nnames = ['echo']\r\n")
    assert load_config(path, {}).names == ("echo",)


def test_a_number_with_too_many_digits_is_refused_as_bad_toml(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("[limits]\nreplay_tags = " + "9" * 5000)
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(path, {})


if __name__ == "__main__":
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text[: text.index("## [node]")] + reference(), encoding="utf-8")
