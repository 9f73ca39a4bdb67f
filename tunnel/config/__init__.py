"""A node's configuration: a TOML file, checked completely, with overrides from the environment.

Imports the settings classes of the rooms that it configures. `tunnel.running`, `tunnel.control` and
`tunnel.cli` import it.
"""

from tunnel.config.load import NodeConfig, load_config, make_config, with_published
from tunnel.config.settings import SETTINGS, Setting

__all__ = ["SETTINGS", "NodeConfig", "Setting", "load_config", "make_config", "with_published"]
