package privsep

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
)

func TestPathOutOfReachHidesTheRest(t *testing.T) {
	for _, c := range []struct {
		name string
		errs map[string]error
		want error
		says []string
	}{
		{"there", nil, nil, []string{"/spool rwc"}},
		{"in a directory that is not", map[string]error{"/spool": syscall.ENOENT}, nil, []string{"/spool rwc", "/ "}},
		{"in a directory closed to the user", map[string]error{"/spool": syscall.EACCES}, nil, []string{"/spool rwc", "/ "}},
		{"in a file", map[string]error{"/spool": syscall.ENOTDIR}, nil, []string{"/spool rwc", "/ "}},
		{"missing where nothing can be made", map[string]error{"/spool": syscall.EROFS}, nil, []string{"/spool rwc", "/ "}},
		{"one too many", map[string]error{"/spool": syscall.E2BIG}, syscall.E2BIG, []string{"/spool rwc"}},
		{"and nothing can be hidden", map[string]error{"/spool": syscall.ENOENT, "/": syscall.EPERM}, syscall.EPERM, []string{"/spool rwc", "/ "}},
	} {
		var says []string
		err := show(func(path, permissions string) error {
			says = append(says, fmt.Sprintf("%s %s", path, permissions))
			return c.errs[path]
		}, "/spool", "rwc")
		if err != c.want || !slices.Equal(says, c.says) {
			t.Errorf("%s: %v, %q", c.name, err, says)
		}
	}
}
