"""Tried before the first step: is what the trainer computes what the run claims?"""
