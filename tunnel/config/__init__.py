"""A node's configuration: TOML, checked whole, with overrides from the environment."""

from tunnel.config.load import NodeConfig, load_config, make_config
from tunnel.config.settings import SETTINGS, Setting

__all__ = ["SETTINGS", "NodeConfig", "Setting", "load_config", "make_config"]
