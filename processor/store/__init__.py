"""PostgreSQL: the tables and every statement, one function each. Nothing here commits."""
