"""The gRPC edge: conversion, the gate that every call passes, the one table of errors."""
