"""Where models come from: paths, Hugging Face's hub, and what other programs have on this disk.

- names.py: what a user may type for a model
- repository.py: which files of a repository are a model, and which one is meant
- folders.py: where this and other programs keep models
- local_stores.py: the models in these folders
- hub.py: downloads from the hub, into its own cache
- fetched.py: which files we downloaded, and may remove
- find.py: from a name to a file
- sidecars.py: which lookahead file belongs to a model
- description.py: what is said about a model in a list
- suggestions.py: models to begin with
- default.py: the default model
"""

from .default import default_model
from .find import ModelFile, find_model

__all__ = ["ModelFile", "default_model", "find_model"]
