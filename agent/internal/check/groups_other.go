//go:build !openbsd

package check

// groups returns the groups that an interface is in, which only OpenBSD has.
func groups(string) ([]string, error) { return nil, nil }
