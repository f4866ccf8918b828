"""What each screen of the pages asks of the database: a module for each, which never looks beyond a `Reach`."""
