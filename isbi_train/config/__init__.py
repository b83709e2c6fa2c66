"""Settings as validated, frozen values; the command line and TOML files only fill them in."""

from isbi_train.config.augment import AugmentConfig
from isbi_train.config.network import ARCHITECTURES, NetworkConfig
from isbi_train.config.train import TrainConfig

__all__ = ["ARCHITECTURES", "AugmentConfig", "NetworkConfig", "TrainConfig"]
