"""Importers: other tools' configurations as scenarios of servetwin."""
