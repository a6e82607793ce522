"""MA-AGIQA: a mean opinion score for AI-generated images (paper: Wang et al., ACM MM 2024).

The modules are named after the paper's blocks. Importing the package loads nothing heavy;
import the module you need.
"""
