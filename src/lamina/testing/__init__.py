"""For the tests of those who use Lamina, and our own: fakes that work, and suites that every implementation passes."""
