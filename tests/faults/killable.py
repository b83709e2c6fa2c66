"""A tiny training in a process that can be killed, which begins with torch imported."""

from drawn import synthetic_stack
from forked import SERVER

from isbi_train.config import AugmentConfig, NetworkConfig, TrainConfig
from isbi_train.data.labelled import LabelledStack
from isbi_train.training.train import fit

EPOCHS = 6


def train(folder, epochs_done):
    """A tiny run whose checkpoints are large, so that most of its time goes into saving them."""
    image_ZYX, label_ZYX = synthetic_stack(4, 64, 64)
    settings = {"epochs": EPOCHS, "crop": 32, "batch": 2, "hold_out": 1, "warmup_steps": 2}
    fit(
        LabelledStack(image_ZYX, label_ZYX > 0, 4.0),
        folder,
        network=NetworkConfig(base=8, depth=3, unshuffle=2),
        augment=AugmentConfig.none(),
        train=TrainConfig(**settings, checkpoint_epochs=1, precision="float32", device="cpu"),
        resume=True,
        report=lambda entry: epochs_done.send(entry["epoch"]),
    )


def begun(folder):
    receive, send = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=train, args=(folder, send))
    process.start()
    send.close()
    return process, receive
