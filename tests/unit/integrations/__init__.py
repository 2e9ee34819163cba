"""Tests of `bitvar.integrations`."""
