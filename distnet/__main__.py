"""python -m distnet: which commands there are."""

from distnet import __version__

COMMANDS = {
    "train": "train a network, on this process or on all that mpirun starts",
    "evaluate": "how good a network is, and where it errs",
    "predict": "what a network says of pictures and rows",
    "compare": "runs over each other",
    "export": "networks in the forms of others: ONNX, safetensors",
    "supervise": "train under mpirun, and again after failures",
    "plan": "what a step costs on how many ranks",
    "datasets": "download MNIST or Fashion-MNIST",
    "doctor": "whether distnet can work here",
}

if __name__ == "__main__":
    print(f"distnet {__version__}\n")
    for name, what in COMMANDS.items():
        print(f"  python -m distnet.{name:<10} {what}")
    print("\nEach has --help.")
