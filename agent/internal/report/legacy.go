package report

// What version 1 spooled is taken over at the first start: segment files of binary records.
// This file is to be deleted in a year.

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"iter"
	"os"
	"path/filepath"
	"time"
)

// A record has a header of 64 bytes, all numbers little endian: magic (4), version (1), kind
// (1), length of the meta (2) and of the text (4), lines (4), sequence number (8), number up to
// which all had been delivered when it was written (8), time in nanoseconds (8), id (16),
// CRC-32C of meta and text (4), of the header (4). Meta is a watermark, which is not taken over.
const legacyHeader = 64

var (
	legacyMagic = []byte{0xf5, 'T', 'S', 'B', 1}
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

type legacyRecord struct {
	batch     batch
	seq, done uint64
}

// importLegacy turns what version 1 left into batch files, and returns what it could not.
func (r *Reporter) importLegacy() (strange []string) {
	for prefix, to := range map[string]spoolDir{"spool-": r.dir, "refused-": r.refused} {
		paths, _ := filepath.Glob(filepath.Join(r.o.SpoolDir, prefix+"*.seg")) // sorted by the first sequence number
		if len(paths) == 0 {
			continue
		}
		if err := r.importSegments(paths, to); err != nil {
			r.o.Log.Error().Err(err).Msg("batches of the earlier version not taken over: tried again at the next start")
			strange = append(strange, prefix+"*.seg: "+err.Error())
		}
	}
	return strange
}

func (r *Reporter) importSegments(paths []string, to spoolDir) error {
	if err := r.checkDir(r.refused); err != nil {
		return err
	}
	// A segment is a sixteenth of the spool and one record.
	most := max(r.o.SpoolMax/16, 64<<10) + maxText + 1<<17
	var done uint64
	n := 0
	for pass := range 2 { // what had been delivered is known when all were read once
		for _, path := range paths {
			b, err := readOwn(path, most+1)
			if err == nil && int64(len(b)) > most {
				err = fmt.Errorf("%s: more than the %d bytes of a segment: remove it", path, most)
			}
			if err != nil {
				return err
			}
			for x := range legacyRecords(b) {
				if pass == 0 || x.seq <= done || x.batch.lines == 0 {
					done = max(done, x.done)
					continue
				}
				if _, err := to.write(&x.batch, x.batch.text, new(watermark)); err != nil {
					return err
				}
				n++
			}
			if pass == 1 {
				if err := os.Remove(path); err != nil {
					return err
				}
			}
		}
	}
	_ = os.Remove(filepath.Join(r.o.SpoolDir, "watermark"))
	r.o.Log.Info().Int("batches", n).Msg("took over what the earlier version spooled")
	return nil
}

// legacyRecords returns the intact records of a segment. Behind a torn one the next is looked for.
func legacyRecords(b []byte) iter.Seq[legacyRecord] {
	return func(yield func(legacyRecord) bool) {
		le := binary.LittleEndian
		for i := 0; i >= 0 && len(b) >= legacyHeader; b = b[max(i, 0):] {
			h := b[:legacyHeader]
			meta, text := int(le.Uint16(h[6:])), int(le.Uint32(h[8:]))
			end := legacyHeader + meta + text
			if !bytes.HasPrefix(h, legacyMagic) || le.Uint32(h[60:]) != crc32.Checksum(h[:60], castagnoli) ||
				text < 0 || end > len(b) || le.Uint32(h[56:]) != crc32.Checksum(b[legacyHeader:end], castagnoli) {
				if i = bytes.Index(b[1:], legacyMagic); i >= 0 {
					i++
				}
				continue
			}
			i = end
			x := legacyRecord{seq: le.Uint64(h[16:]), done: le.Uint64(h[24:])}
			x.batch = batch{
				id: ID(h[40:56]), created: time.Unix(0, int64(le.Uint64(h[32:]))), lines: int(le.Uint32(h[12:])),
				text: b[legacyHeader+meta : end],
			}
			if h[5] != 1 { // not a batch: it only says what was delivered
				x.batch.lines = 0
			}
			if !yield(x) {
				return
			}
		}
	}
}
