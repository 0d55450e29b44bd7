"""Hydra imports every module below the namespace package `hydra_plugins` and uses the plugin classes it sees."""

from cinema_verl.registration.search_path import CinemaSearchPath

__all__ = ["CinemaSearchPath"]
