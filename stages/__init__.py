"""The work: every file is a stage of dvc.yaml, every folder the vocabulary the stages speak."""
