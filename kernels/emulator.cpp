// The emulator without kernels: compiled once, and linked to each of them.
#include "emulator_launch.hpp"
