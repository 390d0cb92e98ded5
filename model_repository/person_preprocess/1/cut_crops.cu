// Rendered by `python -m builders render` from ensembles/person_preprocess/cut_crops.cu; edit that file.
// Crops of people, cut out of frames and resized with OpenCV's arithmetic.
//
// One launch cuts every box of a batch of frames for every network. The pixels are those
// of cv2.resize on x86 (OpenCV 4, modules/imgproc/src/resize.cpp), so that the GPU, the
// CPU and a client that cuts by itself send the same crops to the networks:
//
// * bilinear: coefficients of 11 bits, and sums that are shifted as OpenCV's fixed-point
//   code shifts them. A reduction by exactly 2 in both directions averages 2x2 pixels, as
//   OpenCV does. The pixels are equal.
// * bicubic: sums in single precision, as IPP computes them in OpenCV's wheels for x86.
//   About 16 of a million values differ by one grey level: those half way between two
//   levels, which IPP sums in another order. OpenCV without IPP, and for boxes of less
//   than 4 pixels, rounds coefficients to 11 bits: 3 to 5 % differ by one grey level.
//
// The file compiles as CUDA (without fused multiply-add, which would round differently)
// and as C++, which is how it is tested without a GPU.

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#else
#include <math.h>
#define DEVICE static inline
#endif

#define CHANNELS 3
#define COEFFICIENT_SCALE 2048
#define MAX_TAPS 4

typedef unsigned char uint8;

// What one crop is made of. The fields are those of JOB in gpu_crops.py.
struct Job {
    const uint8 *frame;  // first pixel of the frame, three channels
    uint8 *crop;         // first pixel of the crop, RGB [height, width, 3]
    int row_bytes;       // from one row of the frame to the next
    int is_bgr;          // channel order of the frame: 1 for BGR, 0 for RGB
    int left, top;       // first pixel of the box
    int box_width, box_height;
    int crop_width, crop_height;
    int is_cubic;        // 1 for bicubic, 0 for bilinear
    int padding;
};

DEVICE int clamp(int value, int low, int high) {
    return value < low ? low : (value > high ? high : value);
}

DEVICE uint8 saturate(int value) { return (uint8)clamp(value, 0, 255); }

// Taps of one axis: the index of the first pixel and the weights of up to four.
struct Taps {
    int first;
    float weights[MAX_TAPS];
};

DEVICE void cubic_coefficients(float x, float *c) {
    const float a = -0.75f;
    c[0] = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a;
    c[1] = ((a + 2) * x - (a + 3)) * x * x + 1;
    c[2] = ((a + 2) * (1 - x) - (a + 3)) * (1 - x) * (1 - x) + 1;
    c[3] = 1.f - c[0] - c[1] - c[2];
}

DEVICE Taps taps_at(int position, int size, int source_size, int is_cubic, int is_row) {
    double scale = 1. / ((double)size / source_size);
    double centre = (position + 0.5) * scale - 0.5;
    Taps taps;
    if (is_cubic) {
        double pixel = floor(centre);
        taps.first = (int)pixel - 1;
        cubic_coefficients((float)(centre - pixel), taps.weights);
        return taps;
    }
    // OpenCV rounds the position before it takes the fraction
    float offset = (float)centre;
    int first = (int)floorf(offset);
    offset -= first;
    // OpenCV clamps the offset within a row, and the index alone between rows
    if (is_row && first < 0) first = 0, offset = 0;
    if (is_row && first >= source_size - 1) first = source_size - 1, offset = 0;
    taps.first = first;
    taps.weights[0] = rintf((1.f - offset) * COEFFICIENT_SCALE);
    taps.weights[1] = rintf(offset * COEFFICIENT_SCALE);
    return taps;
}

DEVICE const uint8 *pixel_at(const Job *job, int x, int y) {
    x = job->left + clamp(x, 0, job->box_width - 1);
    y = job->top + clamp(y, 0, job->box_height - 1);
    return job->frame + (long long)y * job->row_bytes + (long long)x * CHANNELS;
}

// The weighted sum of a row's pixels. Bilinear sums are integers below 2^24.
DEVICE float row_sum(const Job *job, const Taps *taps, int count, int y, int channel) {
    float sum = 0;
    for (int k = 0; k < count; k++)
        sum += pixel_at(job, taps->first + k, y)[channel] * taps->weights[k];
    return sum;
}

DEVICE uint8 linear_value(const float *rows, const float *weights) {
    int first = ((int)weights[0] * ((int)rows[0] >> 4)) >> 16;
    int second = ((int)weights[1] * ((int)rows[1] >> 4)) >> 16;
    return saturate((first + second + 2) >> 2);
}

DEVICE uint8 cubic_value(const float *rows, const float *weights) {
    float sum = 0;
    for (int k = 0; k < MAX_TAPS; k++) sum += rows[k] * weights[k];
    return saturate((int)rintf(sum));
}

DEVICE uint8 mean_value(const Job *job, int x, int y, int channel) {
    int sum = 2;
    for (int k = 0; k < 4; k++)
        sum += pixel_at(job, 2 * x + (k & 1), 2 * y + (k >> 1))[channel];
    return (uint8)(sum >> 2);
}

DEVICE void cut_pixel(const Job *job, int x, int y) {
    uint8 *out = job->crop + ((long long)y * job->crop_width + x) * CHANNELS;
    int is_half = !job->is_cubic && job->box_width == 2 * job->crop_width &&
                  job->box_height == 2 * job->crop_height;
    int count = job->is_cubic ? 4 : 2;
    Taps across = taps_at(x, job->crop_width, job->box_width, job->is_cubic, 1);
    Taps down = taps_at(y, job->crop_height, job->box_height, job->is_cubic, 0);
    for (int channel = 0; channel < CHANNELS; channel++) {
        float rows[MAX_TAPS];
        uint8 value;
        if (is_half) {
            value = mean_value(job, x, y, channel);
        } else {
            for (int k = 0; k < count; k++)
                rows[k] = row_sum(job, &across, count, down.first + k, channel);
            value = job->is_cubic ? cubic_value(rows, down.weights)
                                  : linear_value(rows, down.weights);
        }
        out[job->is_bgr ? CHANNELS - 1 - channel : channel] = value;
    }
}

#ifdef __CUDACC__
extern "C" __global__ void cut_crops(const Job *jobs) {
    const Job job = jobs[blockIdx.y];
    int pixels = job.crop_width * job.crop_height;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < pixels;
         i += gridDim.x * blockDim.x)
        cut_pixel(&job, i % job.crop_width, i / job.crop_width);
}
#else
extern "C" void cut_crops(const Job *jobs, int count) {
    for (int number = 0; number < count; number++)
        for (int y = 0; y < jobs[number].crop_height; y++)
            for (int x = 0; x < jobs[number].crop_width; x++)
                cut_pixel(&jobs[number], x, y);
}
#endif
