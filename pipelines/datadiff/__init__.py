"""Compare two prepared datasets: which pictures, classes and splits differ, and by how much (``gantry data diff``)."""
