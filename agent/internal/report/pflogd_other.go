//go:build !openbsd

package report

import "errors"

// processes and sendAlarm are for OpenBSD, where pflogd is.
func processes() ([]byte, error) { return nil, errors.ErrUnsupported }

func sendAlarm(int) error { return errors.ErrUnsupported }
