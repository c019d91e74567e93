"""Decides: is the candidate good enough to be released, and what is its evidence?"""
