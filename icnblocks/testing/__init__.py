"""The test kit: contract suites for stores and policies, fault injectors, model makers."""
