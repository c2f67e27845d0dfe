"""`python -m skufp_pipeline.cli`."""

from skufp_pipeline.cli import main

if __name__ == "__main__":
    main()
