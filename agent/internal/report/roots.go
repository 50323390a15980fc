package report

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	owner "example.org/threatstopd/agent/internal/host"
)

// maxCAFile is larger than all the authorities that there are.
const maxCAFile = 16 << 20

// Roots reads the certificates to trust from a file in PEM form, or the system's where
// file is "". Whoever can write to the file can read the uploads, and so one that others
// can write to is refused, or that belongs to another user than root and the one that
// this process runs as.
func Roots(file string) (*x509.CertPool, error) {
	if file == "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("system's CA certificates: %w", err)
		}
		return pool, nil
	}
	pem, err := readTrusted(file)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, fmt.Errorf("CA_FILE %s: %w", file, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA_FILE %s: no PEM certificate in it", file)
	}
	return pool, nil
}

func readTrusted(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	if uid, is := owner.Stranger(fi); is {
		return nil, fmt.Errorf("owned by uid %d, who could have the uploads sent elsewhere: chown root it", uid)
	}
	if mode := fi.Mode().Perm(); mode&0o022 != 0 {
		return nil, fmt.Errorf("mode %04o: others than its owner can write whom to trust: chmod go-w it", mode)
	}
	if fi.Size() > maxCAFile {
		return nil, fmt.Errorf("%d bytes: more than the limit of %d", fi.Size(), maxCAFile)
	}
	return io.ReadAll(io.LimitReader(f, maxCAFile))
}
