//go:build !unix

package config

import "io/fs"

// stranger is false where owners are not numbers.
func stranger(fs.FileInfo) (uid int, is bool) { return 0, false }

const nonblock = 0
