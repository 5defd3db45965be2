"""The one implementation that every notebook of the course uses. Read the modules in this order:

assets, runtime, attention, model, generation, pretrained, corpus, training, parameters, claims, plots, exercises.
"""

import os

# Large tensors on large pages of memory, where Linux offers them: fewer page faults (notebook 03). PyTorch reads this
# when it first allocates memory.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
