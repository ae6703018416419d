"""Small models and adapters that anybody can get: the catalogue, downloading one, and locating its files."""
