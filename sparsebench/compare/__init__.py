"""What runs are compared by: joins, statistics, differences to dense and to published numbers."""
