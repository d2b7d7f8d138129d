"""python -m distnet: list the commands."""

from distnet import __version__

COMMANDS = {
    "train": "train a network, in one process or on the ranks that mpirun starts",
    "evaluate": "print scores and worst mistakes of a model",
    "predict": "predict classes, labels or numbers for images and rows of numbers",
    "verify": "train a model again, or epochs of a training, and compare the bits",
    "compare": "plot several runs on one page",
    "export": "convert a model to ONNX, or to and from safetensors",
    "supervise": "run mpirun, and restart it after failures",
    "speedup": "train on several numbers of ranks, and compare their speed",
    "plan": "estimate how many ranks and nodes pay off",
    "datasets": "download MNIST or Fashion-MNIST",
    "doctor": "check this machine and its MPI; print fixes",
}

if __name__ == "__main__":
    print(f"distnet {__version__}\n")
    for name, what in COMMANDS.items():
        print(f"  python -m distnet.{name:<10} {what}")
    print("\nEach command has --help.")
