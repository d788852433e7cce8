"""Reading and writing results: one folder per run; tables are collected from them."""
