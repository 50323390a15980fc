//go:build !openbsd

package privsep

import "errors"

// confines: this system has pledge(2) and unveil(2).
const confines = false

func unveil(string, string) error { return errors.ErrUnsupported }

func unveilNoMore() error { return errors.ErrUnsupported }

func pledge(string) error { return errors.ErrUnsupported }

func become(int, int) error { return errors.ErrUnsupported }
