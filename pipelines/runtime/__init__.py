"""What every process needs: the checkout, work directories, the guard, the Ray cluster."""
