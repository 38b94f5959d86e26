"""A tiny configuration of every task: what the tests of tasks run over."""

COMMON = """
[optimiser]
learning_rate = 1e-2
final_learning_rate = 1e-3
clip_norm = 1.0

[train]
batch = 4
steps = 6
validate_every = 2
seed = 0

[run]
folder = "runs/tiny"
"""

TASKS = {
    "adding": """
[data]
length = 6
held_out = 8

[model]
cells = ["Elman", "GRU"]
features = 3
""",
    "digit_writer": """
[data]
samples = 1

[model]
cells = ["GRU"]
embedding = 2
features = 3
dropout = 0.1
""",
    "dates": """
[data]
train = 20
held_out = 5
seed = 0

[model]
embedding = 2
encoder = 2
decoder = 3
attention = 2
dropout = 0.1
beams = 2
""",
    "digits": """
[data]
read_by = "rows"

[model]
cells = ["LSTM"]
features = 3
dropout = 0.1
""",
    "frames": """
[data]
seed = 0
utterances = 5
held_out = 2
syllables = [1, 1]

[model]
features = 3
layers = 1
dropout = 0.1

[classifier]
features = 4
layers = 2
dropout = 0.1
""",
    "forecast": """
[data]
length = 200
seed = 0
snr_db = 30.0
context = 6
horizon = 3
every = 2

[model]
cells = ["LSTM"]
features = 3
""",
    "formulas": """
[data]
train_depth = 2
test_depth = 3
per_depth = 24
validation_fraction = 0.2
seed = 0

[model]
readers = ["TreeRNN", "LSTM"]
features = 3
""",
    "language": """
[data]
path = "text.txt"
validation_fraction = 0.2
window = 8

[model]
embedding = 4
features = 8
layers = 1
dropout = 0.1
""",
    "tagger": """
[data]
characters = 500
held_out = 200
per_file = 300
piece = 40

[model]
embedding = 3
features = 4
layers = 1
dropout = 0.1
""",
}


def configuration(task: str) -> str:
    """The TOML of a tiny run of `task`."""
    return f'task = "{task}"\n{TASKS[task]}{COMMON}'
