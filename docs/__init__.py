"""What makes the pages: tables from `results/`, the site's hooks, the notebooks' runner."""
