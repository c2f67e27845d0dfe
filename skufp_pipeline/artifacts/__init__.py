"""All results in the store: asset name, key, files, and the typed form in which they are read and written."""
