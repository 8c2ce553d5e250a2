"""The worker pool beside `concurrent.futures`: one run, side by side."""
