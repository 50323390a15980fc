// Package pfsim is a pf in memory.
package pfsim
