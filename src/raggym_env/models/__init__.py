"""Small models anybody can have: the catalogue, getting one, and finding its files."""
